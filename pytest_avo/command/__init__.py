"""The command `avo`. A module a group of verbs; light, since an agent calls it again and again."""
