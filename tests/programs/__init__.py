"""The tests of tabloop with the programs that it drives: git, DVC, MLflow, Redis, GitHub's API. No bake."""
