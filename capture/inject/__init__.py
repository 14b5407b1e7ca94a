"""Manifests of Kubernetes with an init container of ours: written in, and taken out again to the byte."""
