"""Fuzzes every parser of files that anybody may have written.

    make fuzz                                         # a million cases over all parsers
    PYTHONPATH=tests python -m fuzz --cases 10000 --target header --seed 7
    PYTHONPATH=tests python -m fuzz --replay build/fuzz/header-7-123.case

A case is decided by its target, seed and number, and by nothing else. Whatever is not a parsed
value or a well-formed TVMergeError within the limits is a failure, and its bytes are kept.
"""
