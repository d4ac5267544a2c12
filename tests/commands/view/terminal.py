"""A terminal that knows what a screen sends: text, a step up, and to clear what is below."""

import re

WORD = re.compile(r"\x1b\[(\d*)A|\x1b\[J|\x1b\[[\d;]*m|\r|\n|[^\x1b\r\n]+")


def shows(text, width):
    """The lines that stand on it at last, also those that have scrolled away."""
    lines, row, column = [""], 0, 0
    for word in WORD.finditer(text):
        match word[0]:
            case "\n":
                row, column = row + 1, 0
                lines += [""] * (row + 1 - len(lines))
            case "\r":
                column = 0
            case "\x1b[J":
                lines[row:] = [lines[row][:column]]
            case up if up.endswith("A") and up[0] == "\x1b":
                row -= int(word[1])
                assert row >= 0
            case style if style[0] == "\x1b":
                pass
            case said:
                for sign in said:
                    if column == width:
                        row, column = row + 1, 0
                        lines += [""] * (row + 1 - len(lines))
                    lines[row] = lines[row][:column].ljust(column) + sign + lines[row][column + 1 :]
                    column += 1
    return [line.rstrip() for line in lines if line.strip()]
