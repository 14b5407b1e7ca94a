# bash looks for this by the name of the program: all is in the file of the other name, beside it.
source "${BASH_SOURCE[0]%/*}/capture"
