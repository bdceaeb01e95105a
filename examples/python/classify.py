"""Classifies photos with a .tflite of effnet-tflite: python classify.py my.tflite cat.jpg dog.jpg

Needs ai-edge-litert, numpy and Pillow, but neither keras_effnet nor TensorFlow.
"""

import sys
import zipfile

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image, ImageOps

model, *photos = sys.argv[1:]
labels = zipfile.ZipFile(model).read("labels.txt").decode().splitlines()
interpreter = Interpreter(model)
interpreter.allocate_tensors()
(pixels,), (scores,) = interpreter.get_input_details(), interpreter.get_output_details()
for photo in photos:
    image = ImageOps.exif_transpose(Image.open(photo)).convert("RGB")
    image = image.resize(pixels["shape"][2:0:-1], Image.Resampling.BILINEAR)
    interpreter.set_tensor(pixels["index"], np.asarray(image, pixels["dtype"])[None])
    interpreter.invoke()
    values = interpreter.get_tensor(scores["index"])[0]
    for i in np.argsort(-values)[:5]:
        print(f"{photo}: {values[i]:6.1%} {labels[i]}")
