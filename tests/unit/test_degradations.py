from reprscope.representations.degradations import last_steps, start_of, starts, step_of


def test_a_step_is_a_name_and_a_number():
    assert step_of("blur-3") == ("blur", 3)
    assert step_of("far-bgr-2.5") == ("far-bgr", 2.5)
    assert step_of("mirrored") is step_of("blur-") is step_of("3") is None


def test_a_degradation_starts_from_the_longest_view_that_it_is_named_after():
    views = ["identity", "far", "far-off", "far-1", "farm", "far-off-blur-1"]
    assert start_of("far-off-blur", views) == "far-off"
    assert start_of("far-blur", views) == "far"
    # A step is no undegraded view, and a part of a word is no name.
    assert start_of("far-1-blur", views) == "far"
    assert start_of("farmer", views) == "identity"


def test_of_each_degradation_the_last_step_is_told():
    views = ["identity", "blur-2", "blur-10", "kept", "kept-blur-1", "kept-blur-2", "mirrored"]
    assert last_steps(views) == ["identity", "blur-10", "kept", "kept-blur-2", "mirrored"]
    assert starts(views) == dict.fromkeys(views, "identity") | {
        "kept-blur-1": "kept",
        "kept-blur-2": "kept",
    }
