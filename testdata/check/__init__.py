"""A second implementation of docs/formats, in Python with the standard library only.

It is written from the pages, not from the Go code, so that the golden vectors
are held by two programs that share nothing. It is for checking vectors: it is
slow, not constant-time, and must never hold a key that matters.
"""
