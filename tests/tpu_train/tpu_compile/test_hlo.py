from tpu_train.tpu_compile import hlo


def test_moved_bytes_count_hbm_with_padding_but_not_on_chip_memory():
    text = """HloModule step
%fused (x: f32[9]) -> f32[9] { ROOT %big = f32[1000000]{0} add(%x, %x) }
ENTRY %main {
  %in = bf16[6,100]{1,0:T(8,128)(2,1)} parameter(0)
  %near = f32[4]{0:T(1024)S(1)} fusion(%in), kind=kLoop, calls=%fused
  %out = f32[4]{0:T(1024)} negate(%near)
  %copy-start = (f32[4]{0:T(1024)S(1)}, f32[4]{0:T(1024)}, u32[]{:S(2)}) copy-start(%out)
  %copy-done = f32[4]{0:T(1024)S(1)} copy-done(%copy-start)
  %slice-start = ((f32[64,8]{1,0}), f32[2,8]{1,0S(1)}, s32[]{:S(2)}) slice-start(%elsewhere)
  ROOT %tuple = (f32[4]{0:T(1024)}) tuple(%out)
}
"""
    read = 8 * 128 * 2
    written = 1024 * 4
    copied = 1024 * 4
    sliced = 2 * 8 * 4
    assert hlo.moved_bytes(text) == read + written + copied + sliced
