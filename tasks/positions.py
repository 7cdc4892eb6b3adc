"""Places in a context, in bins. Imported by whoever names a metric, hence without NumPy."""


def ends_of_bins(length: int) -> list[int]:
    """Of places in a context of `length` tokens: powers of two from 16 on, and the last one."""
    powers = [2**power for power in range(4, 40) if 2**power < length]
    return [*powers, length]
