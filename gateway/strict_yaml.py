"""YAML in which a key that stands twice is an error: the second would silently take the place of the first."""

from __future__ import annotations

from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses duplicate keys."""


def load_yaml(text: str) -> Any:
    """The document in *text*. Raises yaml.YAMLError, also for a duplicate key, naming its line."""
    return yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
