"""Model cards of trained and converted models: Markdown for the Hugging Face Hub, and JSON."""
