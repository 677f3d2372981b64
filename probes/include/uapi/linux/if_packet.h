/* Asked for by bcc, which brings the definitions itself. */
