"""Contents of worktrees: taken, compared, put back, patched."""

from __future__ import annotations

from collections.abc import Callable

from dsv4_agent.batch.trees import Trees

MakeTrees = Callable[[str], Trees]


def test_put_back_exactly(trees_of: MakeTrees) -> None:
    trees = trees_of("x")
    before = trees.take()
    (trees.worktree / "a.py").write_text("changed\n")
    (trees.worktree / "new").mkdir()
    (trees.worktree / "new" / "file.bin").write_bytes(bytes(range(256)))
    (trees.worktree / "b.py").unlink()
    (trees.worktree / "kept.log").write_text("ignored\n")
    after = trees.take()
    assert set(trees.between(before, after).files) == {"a.py", "new/file.bin", "b.py"}
    trees.restore(before)
    assert trees.take() == before
    assert not (trees.worktree / "new").exists()
    assert (trees.worktree / "kept.log").exists()
    trees.restore(after)
    assert (trees.worktree / "new" / "file.bin").read_bytes() == bytes(range(256))
    assert trees.take() == after


def test_it_works_though_the_agent_removed_git(trees_of: MakeTrees) -> None:
    trees = trees_of("x")
    before = trees.take()
    (trees.worktree / ".git").unlink()
    (trees.worktree / "a.py").write_text("changed\n")
    assert trees.between(before, trees.take()).files == ("a.py",)


def test_patches_carry_over(trees_of: MakeTrees) -> None:
    one, two = trees_of("one"), trees_of("two")
    before = one.take()
    (one.worktree / "a.py").write_text((one.worktree / "a.py").read_text().replace("return 1", "return 10"))
    (one.worktree / "data.bin").write_bytes(b"\0\1\2" * 100)
    after = one.take()
    change = one.between(before, after)
    assert (change.insertions, change.deletions) == (1, 1)
    assert two.apply(change.patch) == ()
    assert two.take() == after


def test_a_conflict_changes_nothing_and_is_named(trees_of: MakeTrees) -> None:
    one, two = trees_of("one"), trees_of("two")
    before = one.take()
    text = (one.worktree / "a.py").read_text()
    (one.worktree / "a.py").write_text(text.replace("return 1", "return 10"))
    patch = one.between(before, one.take()).patch
    (two.worktree / "a.py").write_text(text.replace("return 1", "return 11"))
    (two.worktree / "loose.log").write_text("stays\n")
    state = two.take()
    assert two.apply(patch) == ("a.py",)
    assert two.take() == state
    assert "<<<<" not in (two.worktree / "a.py").read_text()
    assert (two.worktree / "loose.log").exists()


def test_a_patch_for_a_file_that_is_gone_is_a_conflict(trees_of: MakeTrees) -> None:
    one, two = trees_of("one"), trees_of("two")
    before = one.take()
    (one.worktree / "b.py").write_text("x\n")
    patch = one.between(before, one.take()).patch
    (two.worktree / "b.py").unlink()
    state = two.take()
    assert two.apply(patch)
    assert two.take() == state


def test_a_file_that_both_added_is_compared_and_not_a_conflict_by_itself(trees_of: MakeTrees) -> None:
    one, two = trees_of("one"), trees_of("two")
    before = one.take()
    (one.worktree / "same.py").write_text("X = 1\n")
    (one.worktree / "differs.py").write_text("Y = 1\n")
    both = one.between(before, one.take()).patch
    (one.worktree / "differs.py").unlink()
    after = one.take()
    patch = one.between(before, after).patch
    (two.worktree / "same.py").write_text("X = 1\n")
    assert two.applied(two.take(), patch) == after
    assert two.apply(patch) == ()
    (two.worktree / "differs.py").write_text("Y = 2\n")
    state = two.take()
    assert two.applied(state, both) == ("differs.py",)
    assert two.apply(both) == ("differs.py",)
    assert two.take() == state
