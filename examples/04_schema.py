"""Generates JSON that a schema allows, whatever the model would rather say.

    python examples/04_schema.py

Needs `pip install 'edgec[serve]'`. Before each token the schema decides which ones may come next.
"""

import json
import sys
from pathlib import Path

import edgec
from edgec.runtime import schema_filter

ARTIFACT = Path("build/demo/tiny-dense.edgec")
if not ARTIFACT.is_dir():
    sys.exit(f"{ARTIFACT} is missing; run: python examples/01_generate.py")

SCHEMA = {
    "type": "object",
    "properties": {
        "book": {"enum": ["Genesis", "Exodus", "Job", "Ruth"]},
        "chapter": {"type": "integer", "minimum": 1, "maximum": 50},
        "prophet": {"type": "boolean"},
    },
    "required": ["book", "chapter", "prophet"],
    "additionalProperties": False,
}

session = edgec.Session(ARTIFACT)
schema = schema_filter(session.model, SCHEMA)
result = session.generate("Where it is written: ", token_filter=schema, max_new_tokens=64)

print(result.text)
assert set(json.loads(result.text)) == {"book", "chapter", "prophet"}
