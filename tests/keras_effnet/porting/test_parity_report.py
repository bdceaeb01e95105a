from keras_effnet.porting.parity_report import Difference, ParityReport


def test_the_report_prints_as_a_table():
    report = ParityReport(
        source="timm tf_efficientnet_b0",
        path="model.safetensors",
        model="efficientnet-b0",
        mapped=311,
        total=311,
        notes=("batch-norm epsilon 0.001, same padding",),
        differences=(
            Difference("stem", 1.5, 3e-7),
            Difference("block1a", 0.25, 5e-7),
            Difference("logits", 0.0, 0.0),
        ),
        not_compared="",
    )
    assert str(report) == (
        "model.safetensors\n"
        "timm tf_efficientnet_b0 -> efficientnet-b0: 311 of 311 weights mapped\n"
        "batch-norm epsilon 0.001, same padding\n"
        "           largest value  difference   relative\n"
        "stem                 1.5    3.00e-07   2.00e-07\n"
        "block1a             0.25    5.00e-07   2.00e-06\n"
        "logits                 0    0.00e+00   0.00e+00\n"
        "Largest relative difference: 2.00e-06 (block1a)"
    )
