"""Shards of checked records, the index of an archive, its bag, and safe files; payloads are opaque here."""
