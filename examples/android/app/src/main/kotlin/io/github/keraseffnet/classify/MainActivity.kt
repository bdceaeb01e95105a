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
private const val PHOTO = "photo" // key of the saved state
private const val LARGEST = 2048 // pixels a side that are decoded: memory, not accuracy

/** A picked photo -> MediaPipe's ImageClassifier with our .tflite -> its five best scores. */
class MainActivity : ComponentActivity() {
    // Loads and classifies, off the screen's thread.
    private val worker = Executors.newSingleThreadExecutor()
    private var classifier: ImageClassifier? = null // the worker's

    private var photo: Uri? = null // the screen's; saved, so that it survives a rotation

    private val picker = registerForActivityResult(PickVisualMedia()) { picked: Uri? ->
        if (picked != null) open(picked)
    }

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        setContentView(R.layout.main)
        findViewById<Button>(R.id.choose).setOnClickListener {
            picker.launch(PickVisualMediaRequest(PickVisualMedia.ImageOnly))
        }
        savedInstanceState?.getString(PHOTO)?.let { open(Uri.parse(it)) }
    }

    override fun onSaveInstanceState(outState: Bundle) {
        super.onSaveInstanceState(outState)
        outState.putString(PHOTO, photo?.toString())
    }

    override fun onDestroy() {
        worker.execute { classifier?.close() }
        worker.shutdown()
        super.onDestroy()
    }

    private fun open(chosen: Uri) {
        photo = chosen
        worker.execute { classify(chosen) }
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
            // all scores: probabilities sum to 1 (up to the rounding of uint8), logits do not
            val sum = rows.sumOf { it.score().toDouble() }
            val shares = sum < 1.05 && rows.all { it.score() >= 0 }
            (rows.take(TOP).map { row(it, shares) } + timing).joinToString("\n")
        } catch (error: RuntimeException) { // MediaPipe's: no model, or not one that it takes
            "$MODEL does not work: ${error.message}"
        }
        show(text, bitmap)
    }

    private fun load(): ImageClassifier {
        val model = BaseOptions.builder().setModelAssetPath(MODEL).build()
        val options = ImageClassifier.ImageClassifierOptions.builder()
            .setBaseOptions(model)
            .setMaxResults(-1)
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

    private fun row(category: Category, share: Boolean): String {
        val name = category.categoryName().ifEmpty { "class ${category.index()}" } // without labels
        if (!share) return String.format(Locale.ROOT, "%6.2f  %s", category.score(), name)
        return String.format(Locale.ROOT, "%5.1f %%  %s", 100 * category.score(), name)
    }

    private fun show(text: String, photo: Bitmap? = null) = runOnUiThread {
        findViewById<TextView>(R.id.answer).text = text
        findViewById<ImageView>(R.id.photo).setImageBitmap(photo)
    }
}
