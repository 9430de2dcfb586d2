"""Assignments that grade themselves: nbgrader grades, this room makes it convenient and safe.

Read ``assignments``, ``collect``, ``grading``, ``statistics`` and ``feedback``; then ``rules``, ``sandbox`` and
``preprocessors``, which keep students' code in, and ``wrong_answers``, which tests the tests.  It may import ``support``.
"""

from dil_tutorial.course.assignments import settings  # for the configuration that `dil course init` writes

__all__ = ["settings"]
