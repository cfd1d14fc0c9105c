"""The papers' results as this project has them: stored measurements in, tables of its pages out."""
