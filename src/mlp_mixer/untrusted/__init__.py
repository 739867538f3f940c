"""Read files that strangers may have made: claims first, memory afterwards.

A header of 100 bytes may claim gigabytes, a gzip file of 4 MB may hold them, and a JSON
text takes up to 30 times its size. So every reader of data asks here: whether a file is
one, how large it is, what it says of itself, and whether both agree. Nothing of NumPy is
built before. What is refused is a `ValueError` with the reason, as one part of a
sentence; the reader says which file it was and what to do.
"""
