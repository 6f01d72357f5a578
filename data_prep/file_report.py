# SPDX-License-Identifier: Apache-2.0
"""Report of `python -m data_prep.check` on one file, as text and as JSON."""

from dataclasses import dataclass, field
from typing import Any

from recipe.treepo.settings.data_rows import Finding, Severity

SHOWN_ROWS = 5  # row numbers per reason in the text


@dataclass(slots=True)
class FileReport:
    """Findings in one file.

    Attributes:
        problems: Reasons why verl cannot use the file, or the rows after the counted ones.
        conflicts: Reasons why an earlier file cannot be in the same list. These are warnings: training and validation
            files are never in one list.
    """

    file: str
    rows: int = 0
    bad_rows: int = 0
    problems: list[str] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)
    row_numbers: dict[Finding, list[int]] = field(default_factory=dict)

    def add(self, row: int, findings: set[Finding]) -> None:
        """Count the findings of a row."""
        self.rows += 1
        self.bad_rows += any(finding.severity is Severity.ERROR for finding in findings)
        for finding in findings:
            self.row_numbers.setdefault(finding, []).append(row)

    @property
    def status(self) -> int:
        """Exit status for this file alone."""
        return 2 if self.problems else 1 if self.bad_rows else 0

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain values."""
        findings = [
            {
                "severity": finding.severity.value,
                "reason": finding.reason,
                "remedy": finding.remedy,
                "rows": len(self.row_numbers[finding]),
                "row_numbers": self.row_numbers[finding],
            }
            for finding in Finding
            if finding in self.row_numbers
        ]
        counts = {"rows": self.rows, "rows_that_will_not_work": self.bad_rows}
        lines = {"problems": self.problems, "conflicts": self.conflicts}
        return {"file": self.file, "status": self.status, **counts, **lines, "findings": findings}

    def as_text(self) -> str:
        """Return the report as text, one line per problem or reason."""
        verdict = ("fine", "some rows will not work", "cannot be used")[self.status]
        lines = [f"{self.file}: {verdict}: {self.rows} rows, {self.bad_rows} of them will not work"]
        lines += [f"  error: {problem}" for problem in self.problems]
        lines += [f"  warning: {conflict}" for conflict in self.conflicts]
        for finding in self.as_json()["findings"]:
            rows = ", ".join(map(str, finding["row_numbers"][:SHOWN_ROWS]))
            more = ", ..." if finding["rows"] > SHOWN_ROWS else ""
            reason = f"{finding['severity']}: {finding['rows']} rows: {finding['reason']}: {finding['remedy']}"
            lines.append(f"  {reason} (rows {rows}{more})")
        return "\n".join(lines)
