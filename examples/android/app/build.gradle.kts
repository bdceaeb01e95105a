plugins {
    id("com.android.application")
}

android {
    namespace = "io.github.keraseffnet.classify"
    compileSdk = 36

    defaultConfig {
        applicationId = "io.github.keraseffnet.classify"
        minSdk = 28 // ImageDecoder, which turns photos as their EXIF says
        targetSdk = 36
        versionCode = 1
        versionName = "1.0"
    }
}

dependencies {
    implementation("androidx.activity:activity:1.10.1")
    implementation("com.google.mediapipe:tasks-vision:1.1.0")
}
