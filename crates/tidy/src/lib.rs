//! Tests that keep the map of the project true; there is nothing to call here. See `tests/`.
