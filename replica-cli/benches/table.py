"""Rows of figures, as text."""


def show(title, rows):
    """Prints rows of the same columns, which are strings, numbers, or None where there is no figure."""
    print("\n" + title)
    columns = list(rows[0])
    text = [columns] + [[shown(value) for value in row.values()] for row in rows]
    widths = [max(len(line[i]) for line in text) for i in range(len(columns))]
    for line in text:
        print("  ".join(value.ljust(width) for value, width in zip(line, widths)).rstrip(), flush=True)


def shown(value):
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    return "%.3g" % value if value < 1000 else "%.0f" % value
