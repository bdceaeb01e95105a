package io.github.keraseffnet.classify

import android.graphics.Bitmap
import android.graphics.ColorSpace
import android.graphics.ImageDecoder
import android.net.Uri
import android.os.Bundle
import android.os.SystemClock
import android.widget.Button
import android.widget.ImageView
import android.widget.TextView
import androidx.activity.ComponentActivity
import androidx.activity.result.PickVisualMediaRequest
import androidx.activity.result.contract.ActivityResultContracts.PickVisualMedia
import com.google.mediapipe.framework.image.BitmapImageBuilder
import com.google.mediapipe.tasks.components.containers.Category
import com.google.mediapipe.tasks.core.BaseOptions
import com.google.mediapipe.tasks.vision.imageclassifier.ImageClassifier
import java.io.IOException
import java.util.Locale
import java.util.concurrent.Executors

private const val MODEL = "model.tflite" // in src/main/assets
private const val TOP = 5
private const val LARGEST = 2048 // pixels a side that are decoded: memory, not accuracy

/** A picked photo -> MediaPipe's ImageClassifier with our .tflite -> its five best scores. */
class MainActivity : ComponentActivity() {
    // Loads and classifies, off the screen's thread.
    private val worker = Executors.newSingleThreadExecutor()
    private var classifier: ImageClassifier? = null // the worker's

    private val picker = registerForActivityResult(PickVisualMedia()) { photo: Uri? ->
        if (photo != null) worker.execute { classify(photo) }
    }

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        setContentView(R.layout.main)
        findViewById<Button>(R.id.choose).setOnClickListener {
            picker.launch(PickVisualMediaRequest(PickVisualMedia.ImageOnly))
        }
    }

    override fun onDestroy() {
        worker.execute { classifier?.close() }
        worker.shutdown()
        super.onDestroy()
    }

    private fun classify(photo: Uri) {
        val bitmap = try {
            decode(photo)
        } catch (error: IOException) {
            return show("This photo cannot be read: ${error.message}")
        }
        val text = try {
            val made = classifier ?: load().also { classifier = it }
            val image = BitmapImageBuilder(bitmap).build()
            val start = SystemClock.elapsedRealtimeNanos()
            val result = made.classify(image)
            val latency = (SystemClock.elapsedRealtimeNanos() - start) / 1e6
            val rows = result.classificationResult().classifications().first().categories()
            val timing = String.format(Locale.ROOT, "%.1f ms, photo to scores", latency)
            (rows.map(::row) + timing).joinToString("\n")
        } catch (error: RuntimeException) { // MediaPipe's: no model, or not one that it takes
            "$MODEL does not work: ${error.message}"
        }
        show(text, bitmap)
    }

    private fun load(): ImageClassifier {
        val model = BaseOptions.builder().setModelAssetPath(MODEL).build()
        val options = ImageClassifier.ImageClassifierOptions.builder()
            .setBaseOptions(model)
            .setMaxResults(TOP)
            .build()
        return ImageClassifier.createFromOptions(this, options)
    }

    private fun decode(photo: Uri): Bitmap {
        val source = ImageDecoder.createSource(contentResolver, photo)
        return ImageDecoder.decodeBitmap(source) { decoder, info, _ ->
            val side = maxOf(info.size.width, info.size.height)
            decoder.setTargetSampleSize((side + LARGEST - 1) / LARGEST)
            decoder.setTargetColorSpace(ColorSpace.get(ColorSpace.Named.SRGB)) // as in training
            decoder.allocator = ImageDecoder.ALLOCATOR_SOFTWARE // MediaPipe reads the pixels
        }
    }

    private fun row(category: Category): String {
        val name = category.categoryName().ifEmpty { "class ${category.index()}" } // without labels
        return String.format(Locale.ROOT, "%5.1f %%  %s", 100 * category.score(), name)
    }

    private fun show(text: String, photo: Bitmap? = null) = runOnUiThread {
        findViewById<TextView>(R.id.answer).text = text
        findViewById<ImageView>(R.id.photo).setImageBitmap(photo)
    }
}
