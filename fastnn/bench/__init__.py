"""The comparison with other libraries: `fastnn bench`.

Every library runs in a process of its own (`worker`), on the same rows in the same shuffled order
from the same Theta (`problem`), and what it computed is compared with a float64 run (`oracle`)
before its time counts. Nothing else of fastnn imports this package.
"""
