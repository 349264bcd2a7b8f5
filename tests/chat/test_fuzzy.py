from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dsv4_agent.chat.fuzzy import Candidates, match

TEXT = st.text(alphabet="abAB/_.-İß", max_size=20)


def best(query: str, *texts: str) -> str:
    return Candidates(texts).search(query)[0].text


def test_the_last_part_of_a_path_wins() -> None:
    assert best("main", "main/other.py", "src/main.py") == "src/main.py"


def test_word_starts_win_over_letters_in_the_middle() -> None:
    assert best("ac", "src/backup.py", "src/attention_compressor.py") == "src/attention_compressor.py"


def test_a_run_wins_over_scattered_letters() -> None:
    assert best("comp", "c_o_m_p.py", "xcomp.py") in {"c_o_m_p.py", "xcomp.py"}
    assert best("omp", "aoxmxp", "aomp") == "aomp"


def test_a_separator_in_the_query_matches_folders() -> None:
    assert best("mo/at", "model/attention.py", "motat.py") == "model/attention.py"


def test_what_lacks_a_letter_is_not_found() -> None:
    assert Candidates(["abc"]).search("abd") == ()
    assert Candidates(["cba"]).search("abc") == ()


def test_an_empty_query_lists_the_shortest_first() -> None:
    assert [found.text for found in Candidates(["bbb", "a", "cc"]).search("", 2)] == ["a", "cc"]


def test_too_many_to_score_keeps_the_ones_in_one_piece() -> None:
    noise = [f"n/o/e/e/d/l/e{i:05}" for i in range(3000)]
    assert best("needle", *noise, "zzz/a_rather_long_folder_name/needle.py").endswith("needle.py")


def test_the_best_alignment_is_marked() -> None:
    found = match("composer/composer.py", "comp")
    assert found is not None and found.positions == (9, 10, 11, 12)


@given(TEXT, st.text(alphabet="abAB/_.-İß", min_size=1, max_size=6))
def test_positions_spell_the_query_and_are_found_if_and_only_if_it_is_a_subsequence(
    text: str, query: str
) -> None:
    rest = iter(text.lower() if len(text.lower()) == len(text) else text.replace("A", "a").replace("B", "b"))
    wanted = query.lower() if len(query.lower()) == len(query) else query.replace("A", "a").replace("B", "b")
    expected = all(character in rest for character in wanted)
    found = match(text, query)
    assert (found is not None) is expected
    if found is not None:
        assert list(found.positions) == sorted(set(found.positions))
        spelt = "".join(text[place] for place in found.positions)
        assert spelt.casefold() == query.casefold()


@given(st.lists(TEXT, max_size=20), TEXT)
def test_the_order_of_the_texts_changes_nothing(texts: list[str], query: str) -> None:
    assert Candidates(texts).search(query) == Candidates(reversed(texts)).search(query)
