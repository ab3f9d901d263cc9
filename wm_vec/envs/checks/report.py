"""What a check finds."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Failure:
    """One thing that is wrong.

    Attributes:
        check: Name of the check that found it.
        what: What was checked.
        expected: What should have been seen.
        seen: What was seen, with step and env where there is one.
        advice: What to do.
    """

    check: str
    what: str
    expected: str
    seen: str
    advice: str

    def __str__(self) -> str:
        return (
            f"[{self.check}] {self.what}\n    expected: {self.expected}\n    seen:     {self.seen}\n"
            f"    to do:    {self.advice}"
        )


@dataclass
class CheckReport:
    """What `check_vector_env` found.

    Attributes:
        environment: The environment, in words.
        passed: Names of the checks that passed, in order.
        skipped: Name of a check, or of a part of it -> why it could not be made.
        failures: What is wrong; empty in a report that is returned rather than raised.
    """

    environment: str
    passed: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)

    def fail(self, check: str, what: str, expected: str, seen: str, advice: str) -> None:
        """Note a failure, the first of its kind alone."""
        if all((f.check, f.what) != (check, what) for f in self.failures):
            self.failures.append(Failure(check, what, expected, seen, advice))

    def failed(self, check: str) -> bool:
        """Whether a check found something."""
        return any(f.check == check for f in self.failures)

    def __str__(self) -> str:
        lines = [f"{self.environment}: {len(self.failures)} failures, {len(self.passed)} checks passed"]
        lines += [f"  passed   {name}" for name in self.passed]
        lines += [f"  skipped  {name}: {why}" for name, why in self.skipped.items()]
        return "\n".join([*lines, *(str(failure) for failure in self.failures)])


class CheckError(AssertionError):
    """An environment breaks the contract; the message lists every failure.

    Attributes:
        report: Everything that was found.
        failures: What is wrong.
    """

    def __init__(self, report: CheckReport) -> None:
        super().__init__(str(report))
        self.report = report
        self.failures = tuple(report.failures)
