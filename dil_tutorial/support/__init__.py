"""What every package needs and none owns: files, figures, intervals, symbols, paths, and optional
packages.

Read in any order; each module stands alone.
It may import ``errors`` and nothing else of this project.
"""
