"""Measures generated clips against a reference: `avmodel evaluate` (docs/evaluation.md).

options --> sides (what is compared) --> observe (features of each clip) --> distances --> report
             protocol (which windows)     one process or several              intervals     table, files
"""
