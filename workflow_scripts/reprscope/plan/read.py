"""Reading the YAML of a study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from reprscope.runtime.errors import UserError


class _Loader(yaml.SafeLoader):
    """YAML in which a key may stand only once in a mapping."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, list | dict):
                raise UserError(
                    f"{node.start_mark.name} line {key_node.start_mark.line + 1}: the name of an "
                    "entry is a list or a mapping: write a text."
                )
            if key in seen:
                raise UserError(
                    f"{node.start_mark.name} line {key_node.start_mark.line + 1}: two entries have "
                    f"the name {key}: rename one."
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def read(path: Path) -> dict[str, Any]:
    """Read a study file.

    Raises
    ------
    UserError
        If it is not YAML, or two entries have one name (YAML itself would drop the first).
    """
    try:
        text = path.read_text(encoding="utf-8")
        loader = _Loader(text)
        loader.name = str(path)
        value = loader.get_single_data()
    except FileNotFoundError as error:
        raise UserError(f"{path} cannot be read: there is no such file.") from error
    except IsADirectoryError as error:
        raise UserError(f"{path} cannot be read: it is a folder.") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} cannot be read: byte {error.start} is not UTF-8; save it as UTF-8."
        ) from error
    except RecursionError as error:
        raise UserError(f"{path} cannot be read: it is nested too deeply.") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        reason = ", ".join(filter(None, (error.context, error.problem)))
        raise UserError(f"{path}{place} is not YAML: {_one_line(reason)}.") from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read: {_one_line(str(error))}.") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} is not a study: it should be a mapping of keys to values.")
    return value
