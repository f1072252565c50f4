"""Data sets and tables: IDX files, MNIST, the embedded digits, CSV and npz tables, and the split of rows.

Everything read from a file is checked; what is wrong is a `fastnn.DataFileError` that names the file.
"""
