import pytest

from tpu_train.tpu_compile.topology import open_topology

GIB = 2**30


@pytest.mark.parametrize("name", ["v5e", "v9:2x2", "v5e:2*4", "", "v2:2x2"])
def test_an_unknown_topology_is_an_error_with_the_known_ones(name):
    with pytest.raises(ValueError, match=r"v5e:1x1, 2x2, 2x4.*v6e:") as error:
        open_topology(name)
    assert repr(name) in str(error.value)


def test_an_impossible_layout_is_an_error_with_possible_ones(topology):
    with pytest.raises(ValueError, match=r"'v5e:3x5' does not exist: .*; try v5e:1x1, 2x2"):
        open_topology("v5e:3x5")


def test_a_topology_has_memory_and_rates_per_core(topology):
    assert topology.cores == 4
    assert topology.hbm_bytes == 15.75 * GIB
    assert topology.flops == 197e12
    assert open_topology("v5e:1x1").cores == 1
    two_cores_per_chip = open_topology("v4:2x2x1")
    assert two_cores_per_chip.cores == 8
    assert two_cores_per_chip.flops == 275e12 / 2
