"""Will a run work here?"""
