"""Pure parsers: the bytes of one ``/proc`` file in, values out (``proc(5)``)."""
