from reprscope.base.provenance import canonical_json


def test_canonical_json_is_equal_for_equal_values():
    assert canonical_json({"b": 1, "a": [1, 2]}) == canonical_json({"a": [1, 2], "b": 1})
    assert canonical_json({"a": [1, 2]}) != canonical_json({"a": [2, 1]})
