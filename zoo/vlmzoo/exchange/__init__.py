"""Published Hugging Face models taken apart into zoo parts, and zoo models given back as the class that expresses them."""
