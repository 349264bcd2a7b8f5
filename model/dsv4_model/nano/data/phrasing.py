"""The many ways in which people ask for the same thing."""

from __future__ import annotations

import random

QUOTES = ("`{}`", "`{}`", "{}", "{}", '"{}"', "'{}'")

RENAME = (
    "Rename {kind}{a} to {b}.",
    "Rename {kind}{a} to {b} everywhere.",
    "rename {kind}{a} to {b}",
    "Please rename {kind}{a} to {b} across the repository.",
    "Rename {kind}{a} to {b} in the whole repository.",
    "Change the name of {kind}{a} to {b}.",
    "Change the name {a} to {b} in all files.",
    "{a} should be called {b}. Rename it everywhere.",
    "{a} is a bad name, call it {b} instead.",
    "Replace every use of {kind}{a} by {b} in the code.",
    "Can you rename {kind}{a} to {b}?",
    "I want {kind}{a} to be renamed to {b}.",
    "Refactor: rename {a} -> {b}",
    "Give {kind}{a} the new name {b}.",
    "Use {b} instead of {a} everywhere in this project.",
)
KINDS = ("", "", "", "the function ", "the symbol ", "the method ", "the name ", "function ")

REPLACE = (
    "In {path}, replace {a} with {b}.",
    "Replace {a} with {b} in {path}.",
    "Replace the text {a} by {b} in the file {path}.",
    "Change {a} to {b} in {path}.",
    "In the file {path} change {a} to {b}.",
    "Please change {a} into {b} in {path}.",
    "{path}: replace {a} with {b}",
    "Edit {path} so that it says {b} instead of {a}.",
    "Swap {a} for {b} in {path}.",
    "Update {path}: {a} becomes {b}.",
)

DEFINITION = (
    "Where is {a} defined?",
    "Find the definition of {a}.",
    "find definition of {a}",
    "In which file is {a} defined?",
    "Show me where {kind}{a} is defined.",
    "Which file defines {kind}{a}?",
    "Locate the definition of {kind}{a}.",
    "Where can I find the definition of {a}?",
    "Where does {a} come from? Find its definition.",
    "Tell me the file and line where {a} is defined.",
)

LIST = (
    "List {what}.",
    "list {what}",
    "Show me {what}.",
    "Which {what_plain} are there?",
    "What {what_plain} does this repository have?",
    "Give me a list of {what}.",
    "Find {what}.",
    "List {what} in this repository.",
)

SEARCH = (
    "Which files mention {a}?",
    "Search for {a}.",
    "Search the repository for {a}.",
    "Where is {a} used?",
    "Find every use of {a}.",
    "grep for {a}",
    "Show all places where {a} is used.",
    "Which lines contain {a}?",
    "Find all mentions of {a}.",
)

LOOKUP = (
    "What is the value of {a} in {path}?",
    "What is {a} set to in {path}?",
    "Read {path} and tell me the value of {a}.",
    "Look up {a} in {path}.",
    "Tell me the {a} in {path}.",
    "In {path}, what is {a}?",
    "Which value does {a} have in {path}?",
    "Check {path}: what is {a}?",
    "Read {a} from {path}.",
)

CREATE = (
    "Create a file {path} with the content:\n{body}",
    "Create the file {path} with this content:\n{body}",
    "Create {path} containing:\n{body}",
    "Write a file {path} with the following text:\n{body}",
    "Make a new file {path} that contains:\n{body}",
    "Add a new file {path}:\n{body}",
    "Please create {path} with these lines:\n{body}",
    "New file {path}:\n{body}",
)

DELETE = (
    "Delete the line {a} from {path}.",
    "Delete the line {a} in {path}.",
    "Remove the line {a} from {path}.",
    "In {path}, remove the line {a}.",
    "In {path}, delete the line {a}.",
    "{path}: delete the line {a}",
    "Please drop the line {a} from {path}.",
)
DELETE_NUMBER = (
    "Delete line {n} of {path}.",
    "Delete line {n} in {path}.",
    "Remove line {n} from {path}.",
    "In {path}, delete line {n}.",
    "Drop line {n} of the file {path}.",
)
INSERT = (
    "Insert the line {b} after {a} in {path}.",
    "In {path}, insert the line {b} after the line {a}.",
    "Add the line {b} after the line {a} in {path}.",
    "In {path}, add a line {b} after {a}.",
    "{path}: insert {b} below {a}",
    "Put the line {b} below the line {a} in {path}.",
)

TEST = (
    "Run the tests.",
    "run the tests",
    "Run the tests and tell me the result.",
    "Do the tests pass?",
    "Please run the test suite and report.",
    "Run the unit tests and report.",
    "Are all tests green?",
    "Run the test suite.",
    "Execute the tests and report the outcome.",
    "Check whether the tests pass.",
)

FIX = (
    "Run the tests and fix what fails.",
    "The tests fail. Fix them.",
    "Fix the failing tests.",
    "fix the tests",
    "Make the tests pass.",
    "Run the tests and fix the error.",
    "A test is broken, please fix it.",
    "Run the test suite, find the misspelt name and fix it.",
    "Something is misspelt and the tests fail. Fix it.",
    "Tests are red. Repair the code and run them again.",
    "There is a typo somewhere, the tests don't pass. Fix it.",
)

STATUS = (
    "What has changed?",
    "Show the git status.",
    "git status",
    "What is the git status?",
    "Which files have changed?",
    "Are there uncommitted changes?",
    "What changed since the last commit?",
    "Summarise the git status.",
    "Is the work tree clean?",
)
DIFF = (
    "Show the diff.",
    "Summarise the diff.",
    "git diff",
    "Which file does the diff touch?",
    "Look at the diff and tell me what it touches.",
    "Summarise my uncommitted changes from the diff.",
    "What does the diff change?",
)

COMMIT = (
    "Commit everything with the message {a}.",
    "Commit all changes with the message {a}.",
    "Commit with message {a}.",
    "commit: {a}",
    "Commit my changes as {a}.",
    "Please commit this with the message {a}.",
    "Make a commit with the message {a}.",
    "Commit the work tree, message {a}.",
    "git commit with the message {a}",
)


def quoted(rng: random.Random, *names: str, bare: bool = True) -> list[str]:
    """All names in one style of quotation, as a person would keep to one."""
    style = rng.choice(QUOTES if bare else tuple(q for q in QUOTES if q != "{}"))
    return [style.format(name) for name in names]


def all_texts() -> list[str]:
    """Every template, for finding the words that mean something."""
    groups = (RENAME, KINDS, REPLACE, DEFINITION, LIST, SEARCH, LOOKUP, CREATE, DELETE, DELETE_NUMBER, INSERT)
    return [text for group in (*groups, TEST, FIX, STATUS, DIFF, COMMIT) for text in group]
