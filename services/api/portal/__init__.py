"""The portal: pages for people, rendered by the API process at `/`. Works without JavaScript."""
