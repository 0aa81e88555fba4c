"""Integers times a fraction below one, undone by what that lost: operators, sharing, storage."""
