"""Results files of version 0.3, renamed to the words of 0.4: labels of losses and a few keys.

python benchmarks/migrate.py outputs/*/*.json
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

KEYS = {"optimiser": "optimizer", "fed": "reduction", "feed": "reduction", "part way": "best interpolation"}


def renamed(content: Any) -> Any:
    """The content with new keys, and with "corrected" in the labels of losses.

    >>> renamed({"fed": "sum", "DIL BCE repaired": 1.0})
    {'reduction': 'sum', 'DIL BCE corrected': 1.0}
    """
    if isinstance(content, dict):
        return {KEYS.get(key, renamed(key)): renamed(value) for key, value in content.items()}
    if isinstance(content, list):
        return [renamed(value) for value in content]
    if isinstance(content, str):
        return re.sub(r"\bDIL (\S+) repaired\b", r"DIL \1 corrected", content)
    return content


if __name__ == "__main__":
    for name in sys.argv[1:]:
        path = Path(name)
        text = path.read_text(encoding="utf-8")
        content = json.loads(text)
        if (new := renamed(content)) != content:
            indented = re.match(r"\{\n( +)", text)
            lines = json.dumps(new, ensure_ascii=False, indent=indented and len(indented[1]))
            path.write_text(lines + "\n", encoding="utf-8")
            print(f"{path}: renamed")
