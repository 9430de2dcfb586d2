from dil_tutorial.cli import main

main()
