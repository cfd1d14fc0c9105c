"""The interactive workbench: one page, one file per tab; it asks the library for everything and computes nothing."""
