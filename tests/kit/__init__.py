"""The tests of tabloop itself: no bake, no project but a folder with a params.yaml."""
