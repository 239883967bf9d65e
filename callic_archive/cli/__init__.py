"""The command line: one file a verb, each option once in ``options``, all outcomes and exit codes in
``report``.
"""
