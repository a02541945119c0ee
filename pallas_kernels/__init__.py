"""Operations with more than one implementation: one folder each, `api` picks, `reference` is the oracle."""
