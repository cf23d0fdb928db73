"""One hospital: its data (`site`), what it does with a message (`local`), and Flower's ClientApp around it (`app`)."""
