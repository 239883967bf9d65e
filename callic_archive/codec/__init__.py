"""One image <-> one codestream: syntax, the shared context generator, encoder, decoder, adaptation."""
