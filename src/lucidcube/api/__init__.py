"""The functions for Python sessions; `lucidcube` offers them, and imports them when they are first used."""
