import pytest

# The stories assert in modules that pytest does not take for tests.
pytest.register_assert_rewrite("tests.slurm.faults", "tests.slurm.placement")
