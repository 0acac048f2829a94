"""The portal: HTML pages that the API process renders at `/`. They work without JavaScript."""
