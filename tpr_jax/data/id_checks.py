"""Says why the id of a person cannot be used, for captions, splits and benchmarks alike."""

import re

# As Excel and LibreOffice write a number of 12 or more digits: "1.70E+15", also with a decimal comma, or
# "1E+11". The sign tells it from ids that people write, such as "1e5" or "2E05".
_SHORTENED = re.compile(r"-?\d(?:[.,]\d+)?E\+\d+", re.IGNORECASE)
_ERROR = re.compile(r"#(?:REF!|N/A|VALUE!|NAME\?|DIV/0!|NUM!|NULL!|SPILL!|CALC!)")
_HIDDEN = re.compile(r"##+")  # a number wider than its column


def why_id_invalid(pid, is_custom: bool) -> str:
    """Returns why an id from `normalize_id` cannot be used; '' if it can.

    Args:
      pid: the id.
      is_custom: whether the data are a user's own, whose ids may also be names.
    """
    if is_custom and isinstance(pid, str) and pid.strip():
        return _why_name_invalid(pid)
    # JSON's true is a Python int, and `Records` cannot hold an id outside int64.
    if isinstance(pid, int) and not isinstance(pid, bool) and -(2**63) <= pid < 2**63:
        return ""
    # A long number loses digits where it is written as one: 12345678901234567.0.
    or_name = " or a name" + (" in quotes" if isinstance(pid, float) else "")
    return f"field 'id' is {pid!r}: must be a whole number{or_name if is_custom else ''}"


def _why_name_invalid(name: str) -> str:
    shared = "so that different people would be one"
    if _SHORTENED.fullmatch(name):
        return (
            f"id '{name}' looks like a number that a spreadsheet shortened, {shared}: format the column as "
            "text and export it again"
        )
    if _HIDDEN.fullmatch(name):
        return (
            f"id '{name}' looks like a number that a spreadsheet had no room for, {shared}: widen the column "
            "and export it again"
        )
    if _ERROR.fullmatch(name):
        return f"id '{name}' is an error of a spreadsheet, {shared}: fix the cell and export it again"
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return f"field 'id' is {name!r}: is not valid Unicode: write another name"
    return ""
