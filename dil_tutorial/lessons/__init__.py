"""What makes the notebooks lessons: panels to move, puzzles to bet on, exercises that are checked
on the spot.

Read ``exercises`` and ``puzzles``, then ``widgets``, which every panel is made with, and
``panels``. It may import the derivation, ``toy``, ``llm``, ``experiments`` and ``support``.
"""
