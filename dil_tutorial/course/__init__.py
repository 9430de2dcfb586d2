"""Assignments that grade themselves: nbgrader grades, this package makes it convenient and safe.

Read ``assignments``, ``hand_ins``, ``collect``, ``grading``, ``statistics``, ``insight``,
``feedback`` and ``exports``.  Then how a hand-in is run: ``sandbox``, ``meter``, ``plain`` and
``answers`` on the student's side, ``stand_in``, ``examiner``, ``agreement`` and ``inputs`` on the
examiner's, ``preprocessors`` for both.  It may import ``support``.
"""

# for the configuration that `dil course init` writes
from dil_tutorial.course.assignments import settings

__all__ = ["settings"]
